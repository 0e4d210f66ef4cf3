"""What is served: a Keras model read as plain operations, and the signatures that are traced from them."""
