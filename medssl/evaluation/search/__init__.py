"""The verb ``search``: the nearest cases of a query, or how well an encoder retrieves."""

from medssl.evaluation.search.verb import search

__all__ = ["search"]
