import io
import json

from velodrome.core.logging import bind, configure_logging, logger


def test_a_line_is_json_and_carries_the_ids_of_its_context() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    with bind(run="01abc"):
        logger().info("checkpoint.saved", step=3)
        logger().debug("not.shown")
    logger().warning("outside")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["run"], first["step"], first["level"]) == ("checkpoint.saved", "01abc", 3, "info")
    assert "run" not in second
