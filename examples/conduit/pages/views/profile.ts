/** A person: who they are, what they wrote, what they like. */
import { html } from 'hono/html';
import type { Profile, ProfileDetails } from '../../db/users.ts';
import { articleList, type ListOptions } from './article-list.ts';
import { buttonForm } from './form.ts';
import { tab } from './home.ts';
import { avatar, compact, day, type Html, nothing, profilePath } from './html.ts';

export interface ProfileViewOptions extends ListOptions {
  profile: ProfileDetails;
  shows: 'articles' | 'favorites';
  isOwn: boolean;
}

export function profileView(options: ProfileViewOptions): Html {
  const { profile, shows, isOwn, path } = options;
  const own = profilePath(profile.username);
  return html`<div class="person">
    <div class="medium">
      ${avatar(profile, 'large')}
      <h1>${profile.username}</h1>
      ${profile.bio ? html`<p class="bio">${profile.bio}</p>` : nothing}
      <p class="figures">
        <span><strong>${compact(profile.articlesCount)}</strong> ${profile.articlesCount === 1 ? 'article' : 'articles'}</span>
        <span><strong>${compact(profile.followersCount)}</strong> ${profile.followersCount === 1 ? 'follower' : 'followers'}</span>
        <span><strong>${compact(profile.followingCount)}</strong> following</span>
        <span>since ${day(profile.createdAt)}</span>
      </p>
      ${isOwn ? html`<a class="button quiet" href="/settings">Edit profile</a>` : followButton(profile, path)}
    </div>
  </div>
  <div class="medium">
    <nav class="tabs" aria-label="Articles of ${profile.username}">
      ${tab(own, isOwn ? 'My articles' : 'Articles', shows === 'articles')}
      ${tab(`${own}/favorites`, 'Favourites', shows === 'favorites')}
    </nav>
    ${articleList(options)}
  </div>`;
}

export function followButton({ username, following }: Profile, back: string): Html {
  const verb = following ? 'Unfollow' : 'Follow';
  return buttonForm(`${profilePath(username)}/${verb.toLowerCase()}`, back, {
    look: `button quiet ${following ? 'on' : ''}`,
    label: `${verb} ${username}`,
  });
}
