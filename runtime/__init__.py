"""Composition: the roles, the device side, configuration and the command line."""
