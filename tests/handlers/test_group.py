from ignite.engine import Engine, Events

from common.handlers.group import HandlerGroup


def test_handlers_act_in_their_order_and_disabled_ones_do_not():
    seen = []

    class Note:
        def __init__(self, name):
            self.name = name

        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, lambda _: seen.append(self.name))

    engine = Engine(lambda engine, batch: None)
    HandlerGroup([Note("a"), None, Note("b")]).attach(engine)
    engine.run([0])
    assert seen == ["a", "b"]
