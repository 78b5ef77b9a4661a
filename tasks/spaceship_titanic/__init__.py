"""Spaceship Titanic: which passengers were taken to another dimension."""
