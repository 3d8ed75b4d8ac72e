"""Datasets by name."""

from cyclical_jax.data.sources import RESIDENT_DATASETS as RESIDENT_DATASETS
from cyclical_jax.data.sources import TRAIN_ON as TRAIN_ON
from cyclical_jax.data.sources import Dataset as Dataset
from cyclical_jax.data.sources import DatasetNotFoundError as DatasetNotFoundError
from cyclical_jax.data.sources import data_source as data_source
from cyclical_jax.data.sources import load as load
from cyclical_jax.data.sources import num_train as num_train
from cyclical_jax.data.subsets import SUBSETS as SUBSETS
