"""Examples with identities, from wherever they come; splits, batches, and views that can be replayed."""

from tutelage.data.arrays import from_arrays
from tutelage.data.batches import Batches, plain_batches
from tutelage.data.examples import Examples, as_model_input
from tutelage.data.folds import fold_of, pool
from tutelage.data.inputs import from_rows
from tutelage.data.labelled import BatchSource, PartlyLabelled, labelled_ids
from tutelage.data.partners import Paired
from tutelage.data.rows import Rows
from tutelage.data.sources import SOURCES, load
from tutelage.data.splits import Splits, leaks, split, split_off
from tutelage.data.views import Views, view_batch, view_number

__all__ = [
    "SOURCES",
    "BatchSource",
    "Batches",
    "Examples",
    "Paired",
    "PartlyLabelled",
    "Rows",
    "Splits",
    "Views",
    "as_model_input",
    "fold_of",
    "from_arrays",
    "from_rows",
    "labelled_ids",
    "leaks",
    "load",
    "plain_batches",
    "pool",
    "split",
    "split_off",
    "view_batch",
    "view_number",
]
