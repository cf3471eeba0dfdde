"""Search for hyperparameters with Optuna: the space, the study, the pruning of trials."""
