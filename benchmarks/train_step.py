"""The time of an epoch with all four techniques cycling, over that of an epoch with none.

    python -m benchmarks.train_step

It uses one core. In the cyclical run weight decay, gradient clipping, temperature and the focal mix
follow schedules. The plain run has cross entropy, a constant weight decay and no clipping. The
constant run has all four techniques, without a cycle. The claim: cyclical over plain is at most
1.05.
"""

from benchmarks import interleaved

interleaved.pin_to_one_core()

import jax  # noqa: E402

from benchmarks import runs  # noqa: E402
from configs import fashion_mnist  # noqa: E402

STEPS = 20


def main():
    print(f"jax {jax.__version__}, one core, batch 128 of 28 x 28, {STEPS} steps a call")
    print(f"{'':>5} {'plain, a step':>15} {'cyclical / plain':>17} {'cyclical / constant':>20}")
    for model, way in {"mlp": "resident", "cnn": "stepwise"}.items():
        dataset = runs.random_dataset(128 * STEPS, side=28)
        epochs = {
            name: runs.epoch(config, dataset, way) for name, config in _configs(model).items()
        }
        seconds = interleaved.time_interleaved(epochs, rounds=11, round_seconds=0.1)
        print(
            f"{model:>5} {interleaved.median_microseconds(seconds, 'plain') / STEPS:>12.0f} us"
            f" {interleaved.ratio(seconds, 'cyclical', 'plain'):>16.2f}x"
            f" {interleaved.ratio(seconds, 'cyclical', 'constant'):>19.2f}x",
            flush=True,
        )


def _configs(model):
    names = {"plain": "plain", "constant": "all", "cyclical": "all"}
    configs = {name: fashion_mnist.get_config(variant) for name, variant in names.items()}
    for config in configs.values():
        config.batch_size = 128
        config.model.name = model
        config.model.batch_norm = True
    constant = configs["constant"]
    constant.optimizer.weight_decay, constant.optimizer.max_norm = 5e-4, 1.0
    constant.loss.temperature, constant.loss.hardness = 1.0, 0.5
    return configs


if __name__ == "__main__":
    main()
