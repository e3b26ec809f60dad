"""An extension of Griffe: shows ``{"a", "b"}`` of a NumPy docstring as it stands, not as an expression."""

import re

import griffe

CHOICES = re.compile(r'^(\s*[\w, ]+ : )\{(".*?")\}', re.M)


class Choices(griffe.Extension):
    """Rewrites the types of parameters and attributes before they are parsed."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = CHOICES.sub(r"\1one of \2", obj.docstring.value)
