"""What learns along with a student and is never exported: connectors, and companions of single terms.

    Listening(student): x ─► student ─► logits
                                └ taps ─► features ─┬─► connectors ─► matched, in the teacher's shapes
                         what the teacher says ─────┴─► companions ─► what their terms read

They are in the student's optimizer and its checkpoints; the student itself keeps only its own weights.
"""

from tutelage.companions.listening import Listening, connect, outputs_of
from tutelage.companions.protocol import Around, Companion, Seen

__all__ = ["Around", "Companion", "Listening", "Seen", "connect", "outputs_of"]
