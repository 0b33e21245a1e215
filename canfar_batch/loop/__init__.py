"""The parts of the loop that `runner.Runner` turns, one room for each stage.

`drive` is what they share. `looking` sees what the platform shows, `ending` finds out how an attempt ended, `deciding`
asks what comes after a failure, `launching` sends, `collecting` fetches results.
"""
