/** What can be wrong with what the application asks of the queue, and what becomes of a message. */
import { BanyanError } from '../../errors.ts';

export class InvalidQueueOption extends BanyanError {
  /** @param where the call: `queue.publish(topic, …)` */
  constructor(where: string, name: string, value: unknown, remedy: string) {
    const shown = typeof value === 'bigint' ? String(value) : JSON.stringify(value);
    super('INVALID_QUEUE_OPTION', {
      what: `${shown ?? String(value)} is no value for ${name}`,
      where,
      remedy: `${remedy}. Nothing was done`,
    });
  }
}

/** A payload is not what its topic's schema says. */
export class InvalidPayload extends BanyanError {
  /** Where in the payload: `author.name`. Empty: the whole. */
  readonly path: string;

  /** @param index of the message in `publishAll` */
  constructor(topic: string, path: string, message: string, index: number | undefined) {
    const which = index === undefined ? '' : ` of message ${index + 1}`;
    super('INVALID_PAYLOAD', {
      what: `The payload${which} is not what its schema says: ${path === '' ? '' : `${path}: `}${message}`,
      where: `topic ${topic}`,
      remedy:
        'Nothing was published. Correct the payload, or the schema; messages that wait are checked by it too',
    });
    this.path = path;
  }
}

/** A payload cannot be written as JSON. */
export class PayloadNotJson extends BanyanError {
  constructor(topic: string, cause: unknown) {
    super('PAYLOAD_NOT_JSON', {
      what: `The payload cannot be written as JSON: ${(cause as Error | undefined)?.message ?? 'it is undefined'}`,
      where: `topic ${topic}`,
      remedy:
        'Nothing was published. Give texts, numbers, booleans, null, and arrays and objects of them; ids of 64 bits as texts',
      cause,
    });
  }
}

export class MessageTooLarge extends BanyanError {
  constructor(topic: string, bytes: number, limit: number) {
    super('MESSAGE_TOO_LARGE', {
      what: `The payload has ${bytes} bytes, and may have ${limit}`,
      where: `topic ${topic}`,
      remedy:
        'Nothing was published. Put what is large into the database or a file, and its id into the message; or raise createQueue({ maxMessageBytes })',
    });
  }
}

/** A transaction that a message was to be part of is none any more, or of another database. */
export class NotInTransaction extends BanyanError {
  constructor() {
    super('NOT_IN_TRANSACTION', {
      what: 'The client given as `tx` is not in a transaction, so the message would not be either',
      where: 'queue.publish(…, { tx })',
      remedy: 'Nothing was published. Send BEGIN first, use pool.transaction, or leave `tx` out',
    });
  }
}

/** The message was taken away from this worker: its lease ran out, or it was handed back. */
export class LeaseLost extends BanyanError {
  constructor(id: string) {
    super('LEASE_LOST', {
      what: 'The message is no longer in the hands of this worker, so nothing of the transaction was kept',
      where: `message ${id}`,
      remedy:
        'Another worker has it, or has done it. When this happens often the process stands still for too long: look for code that blocks the event loop, or raise createQueue({ lease })',
    });
  }
}

/** An earlier delivery of the message has had its effects. Not an error: the message is done. */
export class AlreadyDone extends BanyanError {
  constructor(id: string) {
    super('ALREADY_DONE', {
      what: 'The effects of the message are there already',
      where: `message ${id}`,
      remedy: 'Let it pass: the queue marks the message as done',
    });
  }
}

export class HandlerTimeout extends BanyanError {
  constructor(id: string, timeoutMs: number) {
    super('HANDLER_TIMEOUT', {
      what: `The handler has not finished within ${timeoutMs} ms`,
      where: `message ${id}`,
      remedy:
        'The message is tried again. Raise `timeout`, call `job.heartbeat()` as the work goes on, or heed `job.signal`',
    });
  }
}

export class HandlerRegistered extends BanyanError {
  constructor(topic: string, subscription: string) {
    super('HANDLER_REGISTERED', {
      what: `${subscription} has a handler in this process already`,
      where: `topic ${topic}`,
      remedy: 'Give the second one a name of its own, or raise `concurrency`',
    });
  }
}

export class QueueClosed extends BanyanError {
  constructor() {
    super('QUEUE_CLOSED', {
      what: 'The queue is closed',
      where: 'the queue',
      remedy: 'Publish before queue.close(), or make another queue',
    });
  }
}

export class JobFailed extends BanyanError {
  constructor(id: string, error: string) {
    super('JOB_FAILED', {
      what: `The job has failed for good: ${error.split('\n', 1)[0]}`,
      where: `message ${id}`,
      remedy: 'It is a dead letter: look at it with `queue.deadLetters()`, and replay it',
    });
  }
}

export class JobCancelled extends BanyanError {
  constructor(id: string) {
    super('JOB_CANCELLED', { what: 'The job was cancelled', where: `message ${id}` });
  }
}

export class ResultTimeout extends BanyanError {
  constructor(id: string, timeoutMs: number) {
    super('RESULT_TIMEOUT', {
      what: `There is no result after ${timeoutMs} ms`,
      where: `message ${id}`,
      remedy: 'Nothing was cancelled: ask again later, or look whether a worker runs',
    });
  }
}

export class ResultsNotKept extends BanyanError {
  constructor(job: string) {
    super('RESULTS_NOT_KEPT', {
      what: 'The job keeps no results, so there is nothing to wait for',
      where: `job ${job}`,
      remedy: "Define it with `keepResults: '1h'`",
    });
  }
}
