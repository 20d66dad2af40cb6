"""Methods: what each minimises, phase by phase."""
