"""Tests of nestling.weights."""
