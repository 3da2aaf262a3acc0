"""What a run is worth: metrics, intervals, costs, and one scorecard that holds every number of the report.

`cost` imports torch; the rest works on numpy arrays and plain numbers.
"""

from tutelage.evaluation.judged import Arm, DataFacts, Judged, ModelScore, RunFacts, Times
from tutelage.evaluation.scorecard import scorecard
from tutelage.evaluation.significance import Estimate
from tutelage.evaluation.tasks import TaskFacts

__all__ = ["Arm", "DataFacts", "Estimate", "Judged", "ModelScore", "RunFacts", "TaskFacts", "Times", "scorecard"]
