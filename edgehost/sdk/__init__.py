"""What a function sees: event, context, Response. Imported in workers (and by `edgehost invoke --local`), never by the agent."""
