"""Loops over built objects: train, predict, classify, time; and what they share."""
