"""Programs made of the rooms below: the demo, recipes, prediction, evaluation, preparation."""
