"""A student that a person can read: any classifier's answers as a handful of rules, by name and unit.

    teacher ─► probabilities ─► a small tree, grown towards them ─► rules ─┬─► text: if hour > 15.5 and …: late
                                (and one towards labels, beside it)        ├─► rules.json ─► load_rules ─► answers
                                                                           └─► rules.py, which needs nothing else

`growing` cuts, `features` says what is cut in which unit, `ruleset` is what remains, `distil` measures it.
"""

from tutelage.rules.distil import Distilled, distil_rules
from tutelage.rules.features import Feature
from tutelage.rules.ruleset import Rule, Rules, load_rules

__all__ = ["Distilled", "Feature", "Rule", "Rules", "distil_rules", "load_rules"]
