"""Methods: what each minimises, phase by phase; one file a method or family, found through `registry`."""
