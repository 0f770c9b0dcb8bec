"""Graphs of reduced precision: conversion, accuracy limits, and checks."""
