"""A teacher is anything that answers: a module, and a table of stored answers, by one small protocol."""

from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.protocol import Teacher, as_teacher
from tutelage.teachers.table import TableTeacher

__all__ = ["ModuleTeacher", "TableTeacher", "Teacher", "as_teacher"]
