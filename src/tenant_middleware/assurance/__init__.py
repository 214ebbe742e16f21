"""Proof by attack: a pytest fixture for your own chain, and an audit of live backends. Importing this loads neither."""
