"""Evaluators: saved detections and ground truth in, numbers out."""
