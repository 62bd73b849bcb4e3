"""Datasets: reading, writing, validating, normalising, describing and sampling them."""

from ddm.data.arrays import from_arrays as from_arrays
from ddm.data.dataset import Dataset as Dataset
from ddm.data.dataset import DatasetInfo as DatasetInfo
from ddm.data.describe import Description as Description
from ddm.data.describe import describe as describe
from ddm.data.episodes import from_episodes as from_episodes
from ddm.data.episodes import to_episodes as to_episodes
from ddm.data.identity import digest as digest
from ddm.data.load import load as load
from ddm.data.memory import check_fits as check_fits
from ddm.data.minari_writing import write_minari as write_minari
from ddm.data.normalization import Normalization as Normalization
from ddm.data.normalization import identity_normalization as identity_normalization
from ddm.data.npz import save_npz as save_npz
from ddm.data.references import normalized_score as normalized_score
from ddm.data.references import reference_scores as reference_scores
from ddm.data.sample import check_episodes as check_episodes
from ddm.data.sample import sample as sample
from ddm.data.transforms import OBSERVATION_TRANSFORMS as OBSERVATION_TRANSFORMS
from ddm.data.transforms import REWARD_TRANSFORMS as REWARD_TRANSFORMS
from ddm.data.transforms import normalize as normalize
