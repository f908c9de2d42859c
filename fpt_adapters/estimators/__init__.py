"""`FPTClassifier` and `FPTRegressor`: fit and predict in scikit-learn's manner."""
