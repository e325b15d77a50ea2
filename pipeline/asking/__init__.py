"""One media file asked by hand. Not named `ask`: that is the public function `pipeline.ask`."""
