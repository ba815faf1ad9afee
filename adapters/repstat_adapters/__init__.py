"""Adapters: one per framework, found by entry point, imported only when a model needs them."""
