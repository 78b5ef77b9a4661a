"""Spaceship Titanic: name, description and default settings."""

NAME = "spaceship-titanic"
DESCRIPTION = (
    "Say of each passenger of a ship whether an accident took them to another dimension, True or False, from what is "
    "recorded of them: planet, cabin, age, spending and name. 8,693 passengers, of whom about half were taken. Answers "
    "are judged as a whole submission, by accuracy over all passengers that were asked about. Gradient boosting on the "
    "records scores about .80."
)
POLICY = "text-scorer"
GENERATIONS = 3
