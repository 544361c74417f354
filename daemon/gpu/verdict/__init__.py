"""The verdict on a GPU's health: a state, and the reasons for it.

Pure: readings and events in, `Verdict` out. Each reason names the reading, its value, the threshold
it was held against, and where that threshold comes from. What a GPU is for is no fault: full memory,
100 % utilisation, power at its limit, idling. What could not be read is `unknown` and said, never
taken for healthy; what a GPU does not have cannot be ill, and is listed as not checked.
"""

from daemon.gpu.verdict.judge import judge, judge_node
from daemon.gpu.verdict.look import Earlier
from daemon.gpu.verdict.reason import BLAMES, Code, NotChecked, Reason, Severity, Source, State, Verdict

__all__ = [
    "BLAMES",
    "Code",
    "Earlier",
    "NotChecked",
    "Reason",
    "Severity",
    "Source",
    "State",
    "Verdict",
    "judge",
    "judge_node",
]
