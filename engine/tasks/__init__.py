"""Problems with known answers: generators, held-out splits, and the training of the bundled model."""
