"""Teacher answers on disk: asked once, looked up by content id and view, never a wrong row."""

from tutelage.store.asking import Capture, identity_of
from tutelage.store.builder import Built, build
from tutelage.store.codecs import Codec, codec_of
from tutelage.store.layout import Manifest, key_of
from tutelage.store.places import store_root
from tutelage.store.plan import Question, draws_of
from tutelage.store.reader import StoredTeacher
from tutelage.store.record import record
from tutelage.store.verify import Damage, repair, stores_in, verify

__all__ = [
    "Built",
    "Capture",
    "Codec",
    "Damage",
    "Manifest",
    "Question",
    "StoredTeacher",
    "build",
    "codec_of",
    "draws_of",
    "identity_of",
    "key_of",
    "record",
    "repair",
    "store_root",
    "stores_in",
    "verify",
]
