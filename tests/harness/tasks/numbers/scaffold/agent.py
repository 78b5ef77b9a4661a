"""Ask, and answer what the model says."""


def solve(item, model, data):
    """The model's two numbers."""
    return model.complete(item.prompt).text
