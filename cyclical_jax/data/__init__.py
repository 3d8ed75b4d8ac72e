"""Datasets by name."""

from cyclical_jax.data.images import Normalisation as Normalisation
from cyclical_jax.data.images import as_floats as as_floats
from cyclical_jax.data.sources import DATASETS as DATASETS
from cyclical_jax.data.sources import RESIDENT_DATASETS as RESIDENT_DATASETS
from cyclical_jax.data.sources import TRAIN_ON as TRAIN_ON
from cyclical_jax.data.sources import UNLABELLED as UNLABELLED
from cyclical_jax.data.sources import Dataset as Dataset
from cyclical_jax.data.sources import DatasetNotFoundError as DatasetNotFoundError
from cyclical_jax.data.sources import check_image_size as check_image_size
from cyclical_jax.data.sources import check_unlabelled as check_unlabelled
from cyclical_jax.data.sources import data_source as data_source
from cyclical_jax.data.sources import image_shape as image_shape
from cyclical_jax.data.sources import load as load
from cyclical_jax.data.sources import num_classes as num_classes
from cyclical_jax.data.sources import num_examples as num_examples
from cyclical_jax.data.sources import num_train as num_train
from cyclical_jax.data.sources import num_unlabelled as num_unlabelled
from cyclical_jax.data.streams import DamagedExampleError as DamagedExampleError
from cyclical_jax.data.streams import Stream as Stream
from cyclical_jax.data.subsets import SUBSETS as SUBSETS
from cyclical_jax.data.subsets import index_file_of as index_file_of
from cyclical_jax.data.subsets import parse_subset as parse_subset
