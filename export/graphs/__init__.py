"""Graphs of served models: conversion of Keras models to plain operations, and the signatures traced from them."""
