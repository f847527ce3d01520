"""Physical removal: smaller models out of a cut."""
