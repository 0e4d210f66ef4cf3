// The progress of a job from its events: losses, samples, the best epoch and the time left. Without page elements.

// Consecutive epochs without improvement after which more minutes are not worthwhile.
const STALLED = 2;

export class Progress {
  // Training losses by tokens read: [{ tokens, loss }].
  training = [];
  // Complete epochs: [{ epoch, tokens, training, loss, samples }].
  epochs = [];
  fraction = 0;
  epoch = 0;
  lastEventId = null;
  #endsAt = null;

  // Adds an event; `now` is in milliseconds. Returns whether it has a new epoch.
  add(event, now) {
    this.lastEventId = event.id;
    const { data } = event;
    if (event.type !== "metrics" || !data) return false;
    this.epoch = data.epoch;
    // A resumed job repeats its last epoch.
    this.training = this.training.filter(({ tokens }) => tokens < data.tokens);
    this.training.push({ tokens: data.tokens, loss: data.train_loss });
    if (data.fraction !== undefined) {
      this.fraction = data.fraction;
      this.#endsAt = data.seconds_left === null ? null : now + 1000 * data.seconds_left;
      return false;
    }
    this.epochs.push({ epoch: data.epoch, tokens: data.tokens, training: data.train_loss, loss: data.validation_loss, samples: data.samples ?? [] });
    return true;
  }

  // Until the next update, the time left is unknown.
  pause() {
    this.#endsAt = null;
  }

  // Seconds left; null while unknown.
  secondsLeft(now) {
    return this.#endsAt === null ? null : Math.max(0, (this.#endsAt - now) / 1000);
  }

  // The epoch with the lowest validation loss; undefined without any.
  get best() {
    return this.epochs.filter(({ loss }) => loss !== null).reduce((best, each) => (best && best.loss <= each.loss ? best : each), undefined);
  }

  // Advice on the validation loss of a job with a status, as sentences; empty if there is none.
  advice(status) {
    const { best } = this;
    if (!best) return "";
    const isLost = status === "failed" || status === "cancelled";
    const since = this.epochs.length - 1 - this.epochs.indexOf(best);
    if (since >= STALLED) {
      const published = isLost ? "" : ` Epoch ${best.epoch}, the best one, ${status === "succeeded" ? "was" : "will be"} published.`;
      return `Validation has not improved for ${since} epochs: the model begins to memorize the text. More text would help more than more time.${published}`;
    }
    return (isLost || status === "succeeded") && since === 0 && this.epochs.length > 1 ? "Validation improved to the end: more time may help." : "";
  }
}
