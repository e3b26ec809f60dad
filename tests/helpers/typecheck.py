"""beartype with the numeric tower of PEP 484, so that an int is a float as for static checkers."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
