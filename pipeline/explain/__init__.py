"""The storyboard of one clip: what the model was shown, what it kept, what each question looked at, and what came out.

`finding` (which clip) -> `asking_again` (decoded and asked once more) -> `facts` (what can be shown of it) -> `page`.
"""
