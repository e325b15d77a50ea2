"""OmniDrop: answer a whole question set about a video clip in one token-pruned pass of an omni-modal model.

Usable alone: it takes frames, audio and questions, and gives answers, their cost and a trace of what was kept. Knows no
archive, no Ray, no SQL and no ffmpeg.
"""
