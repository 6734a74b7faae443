"""The smallest useful function: a greeting for `?name=`, and an echo for a body."""


def handler(context, event):
    if not event.body:
        return f"Hello, {event.fields.get('name', 'world')}!\n"
    context.logger.info_with("echo", bytes=event.size)
    return context.Response(body=event.body, content_type=event.content_type)
