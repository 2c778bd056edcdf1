/** Form fields: each has a label, keeps what was typed and shows beside it what is wrong. */
import { html } from 'hono/html';
import type { FieldErrors } from '../../problem.ts';
import { type Html, nothing } from './html.ts';

export interface FormState {
  /** What was typed; passwords are never sent back. */
  values: Record<string, string>;
  errors: FieldErrors;
}

export const EMPTY_FORM: FormState = { values: {}, errors: {} };

export interface FieldOptions {
  name: string;
  label: string;
  type?: 'text' | 'email' | 'password' | 'url' | 'file';
  /** Lines of a text area; one line without. */
  rows?: number;
  hint?: string;
  placeholder?: string;
  autocomplete?: string;
  required?: boolean;
  maxLength?: number;
  accept?: string;
}

export function field({ values, errors }: FormState, options: FieldOptions): Html {
  const { name, label, type = 'text', rows, hint } = options;
  const problem = errors[name]?.[0];
  const hintId = hint ? `${name}-hint` : '';
  const problemId = problem ? `${name}-problem` : '';
  const attributes = html`id="${name}" name="${name}"
    ${options.required ? 'required' : nothing}
    ${attribute('placeholder', options.placeholder)}
    ${attribute('autocomplete', options.autocomplete)}
    ${attribute('maxlength', options.maxLength)}
    ${attribute('accept', options.accept)}
    ${attribute('aria-describedby', [hintId, problemId].filter(Boolean).join(' '))}
    ${problem ? html`aria-invalid="true"` : nothing}`;
  const value = type === 'password' || type === 'file' ? undefined : values[name];
  return html`<div class="field">
    <label for="${name}">${label}</label>
    ${
      // A newline right after the tag is not part of the text: without it the text's first would be lost.
      rows
        ? html`<textarea ${attributes} rows="${rows}">
${value}</textarea>`
        : html`<input type="${type}" ${attributes} ${attribute('value', value)}>`
    }
    ${hint ? html`<p class="hint" id="${hintId}">${hint}</p>` : nothing}
    ${problem ? html`<p class="problem" id="${problemId}">${capitalise(label)} ${problem}.</p>` : nothing}
  </div>`;
}

/** What is wrong with the whole, above the fields. */
export function formProblem(message: string | undefined): Html | '' {
  return message ? html`<p class="problem banner" role="alert">${message}</p>` : nothing;
}

/** A form that is one button. `back` is where the browser goes afterwards. */
export function buttonForm(
  action: string,
  back: string,
  { label, title, look }: { label: Html | string; title?: string; look: string },
): Html {
  return html`<form method="post" action="${action}">
    <input type="hidden" name="back" value="${back}">
    <button class="${look}" ${attribute('title', title)} ${attribute('aria-label', title)}>${label}</button>
  </form>`;
}

function attribute(name: string, value: string | number | undefined): Html | '' {
  return value === undefined || value === '' ? nothing : html`${name}="${value}"`;
}

function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
