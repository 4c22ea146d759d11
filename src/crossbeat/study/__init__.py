"""Studies: a study file and a cohort in; every arm trained, scored on the same patients, and one table out."""
