"""A first rule: a temperature that is too high for some readings in a row, and the moment it is back."""

import headrace as hr


class Hot:
    """Emits `raised` after `in_a_row` readings above the limit, and `cleared` at the first one below limit - deadband."""

    output = {"event": "STRING NOT NULL", "at": "TIMESTAMP_LTZ(3) NOT NULL", "value": "DOUBLE NOT NULL"}
    state = {"above": hr.Value("BIGINT", 0), "raised": hr.Value("BOOLEAN", False)}

    def __init__(self, limit=75.0, deadband=2.0, in_a_row=3):
        self.limit, self.deadband, self.in_a_row = limit, deadband, in_a_row

    def on_record(self, reading, state):
        value = reading["value"]
        state.above = state.above + 1 if value > self.limit else 0
        if not state.raised and state.above >= self.in_a_row:
            state.raised = True
            yield {"event": "raised", "at": state.time, "value": value}
        elif state.raised and value < self.limit - self.deadband:
            state.raised = False
            yield {"event": "cleared", "at": state.time, "value": value}


@hr.pipeline("hot", version="1")
def hot(limit: float = 75.0, deadband: float = 2.0, in_a_row: int = 3):
    readings = hr.stream(
        "loop",
        schema={"datetime": "STRING NOT NULL", "Temperature": "STRING"},
        event_time="TO_TIMESTAMP_LTZ(datetime, 'yyyy-MM-dd HH:mm:ss')",
        watermark=hr.seconds(10),
    )
    values = readings.select(sensor="'Temperature'", value="TRY_CAST(Temperature AS DOUBLE)").where("value IS NOT NULL")
    return {"hot-events": values.process(Hot(limit, deadband, in_a_row), by=["sensor"])}


def test_two_readings_above_the_limit_are_not_enough():
    readings = [{"sensor": "T1", "at": 1_000 * second, "value": value} for second, value in enumerate([76.0, 77.0, 74.0, 76.0, 77.0, 78.0])]
    assert hr.drive(Hot, readings, by=["sensor"], time="at") == [("", {"sensor": "T1", "event": "raised", "at": 5_000, "value": 78.0})]
