"""Greets whoever asks. A JSON object with a `name` arrives as a dict; GET requests may say it as ?name=."""


def init_context(context):
    # Runs once in each worker, before its first event: open connections and load data here.
    context.user_data.greeted = 0


def handler(context, event):
    asked = event.body.get("name") if isinstance(event.body, dict) else None
    name = asked or event.fields.get("name", "world")
    context.user_data.greeted += 1
    context.logger.info_with("greeted", name=name, times=context.user_data.greeted)
    return {"greeting": f"Hello, {name}!", "by": context.function_name}
