"""A teacher is anything that answers: a module, a table of stored answers, or several of them as one."""

from tutelage.teachers.combining import COMBINATIONS
from tutelage.teachers.ensemble import EnsembleTeacher, Panel
from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.protocol import Teacher, as_teacher
from tutelage.teachers.reading import Reading
from tutelage.teachers.table import TableTeacher

__all__ = [
    "COMBINATIONS",
    "EnsembleTeacher",
    "ModuleTeacher",
    "Panel",
    "Reading",
    "TableTeacher",
    "Teacher",
    "as_teacher",
]
