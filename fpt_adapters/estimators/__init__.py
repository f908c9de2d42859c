"""`FPTClassifier`, `FPTRegressor` and `FPTForecaster`: fit and predict in scikit-learn's manner."""
