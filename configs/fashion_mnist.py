"""Fashion-MNIST, 28x28, 55,000 training and 5,000 validation images, with an MLP.

python -m experiments.prepare_data --dataset=fashion_mnist
python -m experiments.train --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

After a colon, as in configs/fashion_mnist.py:all, the variant: weight_decay, clipping, temperature
and focal cycle one technique each, all cycles the four at once.
"""

from configs import default
from cyclical_jax.training.recipe import cyclical

VARIANTS = default.with_all(
    {
        "weight_decay": {"optimizer.weight_decay": cyclical(easy=1e-4, hard=1e-3)},
        "clipping": {"optimizer.max_norm": cyclical(easy=0.5, hard=2.0)},
        "temperature": {"loss.temperature": cyclical(easy=0.5, hard=2.0)},
        "focal": default.cyclical_focal(),
    }
)


def get_config(variant: str = "plain"):
    config = default.get_config()
    config.dataset = "fashion_mnist"
    config.batch_size = 256
    config.num_epochs = 15
    config.model.hidden_sizes = (256, 128)
    config.model.batch_norm = True
    config.optimizer.weight_decay = 5e-4
    return default.vary(config, VARIANTS, variant)
