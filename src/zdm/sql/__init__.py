"""Composing SQL from values: identifiers, the templates of ``triggers/``, sync objects, version views, row predicates."""
