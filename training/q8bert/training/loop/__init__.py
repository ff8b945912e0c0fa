"""When what happens: steps, rates, evaluations, processes."""
