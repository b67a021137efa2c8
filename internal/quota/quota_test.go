package quota_test

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/quota"
)

const none = time.Duration(-1)

func header(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h.Add(kv[i], kv[i+1])
	}
	return h
}

func unix(s int64) time.Time { return time.Unix(s, 0) }

func date(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return at
}

// Header sets as their servers document or send them. Where a source leaves the time
// out, now is chosen a little before the reset.
func TestDocumentedHeaders(t *testing.T) {
	for _, c := range []struct {
		source   string
		now      time.Time
		header   []string
		after    time.Duration
		left     []quota.Quota
		policies []quota.Quota
		spent    bool
	}{
		{
			source: "GitHub, primary limit: docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api", now: unix(1691591363 - 90),
			header: []string{"x-ratelimit-limit", "5000", "x-ratelimit-remaining", "0", "x-ratelimit-used", "5000", "x-ratelimit-reset", "1691591363", "x-ratelimit-resource", "core"},
			after:  none, left: []quota.Quota{{0, 90 * time.Second}}, spent: true,
		},
		{
			source: "GitHub, secondary limit: docs.github.com/rest/overview/troubleshooting",
			header: []string{"retry-after", "60", "x-ratelimit-limit", "5000", "x-ratelimit-remaining", "4987"}, after: time.Minute,
		},
		{
			source: "GitHub, search: github.com/KnpLabs/php-github-api/pull/1072",
			header: []string{"Date", "Mon, 13 Jun 2022 11:48:53 GMT", "X-RateLimit-Limit", "30", "X-RateLimit-Remaining", "14", "X-RateLimit-Reset", "1655120964", "X-RateLimit-Used", "16"},
			after:  none, left: []quota.Quota{{14, 31 * time.Second}},
		},
		{
			source: "GitLab: gitlab.com/gitlab-org/gitlab/-/issues/199738",
			header: []string{"Date", "Thu, 30 Jan 2020 14:14:16 GMT", "RateLimit-Limit", "600", "RateLimit-Observed", "5", "RateLimit-Remaining", "595", "RateLimit-Reset", "1580393717", "RateLimit-ResetTime", "Thu, 30 Jan 2020 14:15:17 GMT"},
			after:  none, left: []quota.Quota{{595, 61 * time.Second}},
		},
		{
			source: "GitLab, refused: docs.gitlab.com/administration/settings/user_and_ip_rate_limits", now: unix(1609844400 - 30),
			header: []string{"RateLimit-Limit", "60", "RateLimit-Name", "throttle_authenticated_web", "RateLimit-Observed", "67", "RateLimit-Remaining", "0", "RateLimit-Reset", "1609844400", "RateLimit-ResetTime", "Tue, 05 Jan 2021 11:00:00 GMT", "Retry-After", "30"},
			after:  30 * time.Second, left: []quota.Quota{{0, 30 * time.Second}}, spent: true,
		},
		{
			source: "GitBook: gitbook.com/docs/developers/gitbook-api/rate-limiting", now: unix(1377013266 - 60),
			header: []string{"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1377013266"},
			after:  none, left: []quota.Quota{{0, time.Minute}}, spent: true,
		},
		{
			source: "Smartsheet: developers.smartsheet.com/api/resource_management/getting-started/throttling-and-rate-limiting", now: unix(1482966442 - 12),
			header: []string{"X-RateLimit-Limit", "120", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1482966442"},
			after:  none, left: []quota.Quota{{0, 12 * time.Second}}, spent: true,
		},
		{
			source: "Syntage: docs.syntage.com/guides/api/rate-limiting",
			header: []string{"Date", "Sun, 29 Nov 2020 19:21:21 GMT", "X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "56", "X-RateLimit-Reset", "1606678044"},
			after:  none, left: []quota.Quota{{56, 363 * time.Second}},
		},
		{
			source: "OneKhusa: docs.onekhusa.com/api-reference/get-started/rate-Limiting", now: unix(1735689600 - 1),
			header: []string{"X-RateLimit-Limit", "50", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1735689600"},
			after:  none, left: []quota.Quota{{0, time.Second}}, spent: true,
		},
		{
			source: "X: docs.x.com/fundamentals/rate-limits", now: unix(1705420800 - 900),
			header: []string{"x-rate-limit-limit", "900", "x-rate-limit-remaining", "847", "x-rate-limit-reset", "1705420800"},
			after:  none, left: []quota.Quota{{847, 15 * time.Minute}},
		},
		{
			source: "Twitch: discuss.dev.twitch.com/t/helix-rate-limit-for-streams-endpoint/12955", now: unix(1511282710 - 7),
			header: []string{"Ratelimit-Remaining", "29", "Ratelimit-Reset", "1511282710", "Ratelimit-Limit", "30"},
			after:  none, left: []quota.Quota{{29, 7 * time.Second}},
		},
		{
			source: "DigitalOcean: github.com/digitalocean/openapi specification/shared/headers.yml", now: unix(1444931833 - 3600),
			header: []string{"ratelimit-limit", "5000", "ratelimit-remaining", "4816", "ratelimit-reset", "1444931833"},
			after:  none, left: []quota.Quota{{4816, time.Hour}},
		},
		{
			source: "VolvoxLLC: mintlify.com/VolvoxLLC/volvox-bot/api/rate-limits", now: unix(1711234567 - 40),
			header: []string{"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "42", "X-RateLimit-Reset", "1711234567"},
			after:  none, left: []quota.Quota{{42, 40 * time.Second}},
		},
		{
			source: "Nango: nango.dev/docs/reference/api/rate-limits", now: unix(1700000000 - 5),
			header: []string{"X-RateLimit-Limit", "200", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1700000000", "Retry-After", "5"},
			after:  5 * time.Second, left: []quota.Quota{{0, 5 * time.Second}}, spent: true,
		},
		{
			source: "Jira Cloud: developer.atlassian.com/cloud/jira/platform/rate-limiting", now: date("2026-03-26T15:59:30Z"),
			header: []string{"Retry-After", "30", "X-RateLimit-Limit", "40000", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "2026-03-26T16:00Z", "X-RateLimit-NearLimit", "false", "RateLimit-Reason", "jira-quota-tenant-based"},
			after:  30 * time.Second, left: []quota.Quota{{0, 30 * time.Second}}, spent: true,
		},
		{
			source: "Jira Cloud, points: community.developer.atlassian.com/t/2026-point-based-rate-limits/97828",
			header: []string{"Beta-Ratelimit", `"tenant-app-quota";r=0;t=2788`, "X-Beta-Ratelimit-Reason", "jira-quota-tenant-based", "X-Beta-Ratelimit-Reset", "2026-03-26T16:00Z", "X-Ratelimit-Limit", "400", "X-Ratelimit-Remaining", "399"},
			after:  none,
		},
		{
			source: "Confluence Data Center: confluence.atlassian.com/doc/_ratelimiting_httpheaders-992678779.html",
			header: []string{"X-RateLimit-Limit", "5", "X-RateLimit-Remaining", "3", "X-RateLimit-Interval-Seconds", "10", "X-RateLimit-FillRate", "2", "retry-after", "0"},
			after:  0, policies: []quota.Quota{{2, 10 * time.Second}},
		},
		{
			source: "Discord: docs.discord.com/developers/topics/rate-limits", now: date("2016-03-12T14:41:09Z"),
			header: []string{"X-RateLimit-Limit", "5", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1470173023", "X-RateLimit-Reset-After", "1", "X-RateLimit-Bucket", "abcd1234"},
			after:  none, left: []quota.Quota{{0, time.Second}}, spent: true,
		},
		{
			source: "Discord, refused: docs.discord.com/developers/topics/rate-limits", now: unix(1470173023),
			header: []string{"Retry-After", "65", "X-RateLimit-Limit", "10", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1470173023.123", "X-RateLimit-Reset-After", "64.57", "X-RateLimit-Scope", "user"},
			after:  65 * time.Second, left: []quota.Quota{{0, 64570 * time.Millisecond}}, spent: true,
		},
		{
			source: "Discord, global: docs.discord.com/developers/topics/rate-limits",
			header: []string{"Retry-After", "65", "X-RateLimit-Global", "true", "X-RateLimit-Scope", "global"}, after: 65 * time.Second,
		},
		{
			source: "Shopify REST Admin: shopify.dev/docs/api/admin-rest/usage/rate-limits",
			header: []string{"X-Shopify-Shop-Api-Call-Limit", "32/40"},
			after:  none, left: []quota.Quota{{48, 20 * time.Second}},
		},
		{
			source: "Shopify REST Admin, refused: shopify.dev/docs/api/admin-rest/usage/rate-limits",
			header: []string{"X-Shopify-Shop-Api-Call-Limit", "40/40", "Retry-After", "2.0"},
			after:  2 * time.Second, left: []quota.Quota{{0, 500 * time.Millisecond}}, spent: true,
		},
		{
			source: "Zendesk, list: developer.zendesk.com/documentation/api-basics/best-practices/best-practices-for-avoiding-rate-limiting",
			header: []string{"x-rate-limit", "700", "ratelimit-limit", "700", "x-rate-limit-remaining", "699", "ratelimit-remaining", "699", "ratelimit-reset", "41", "zendesk-ratelimit-tickets-index", "total=100; remaining=99; resets=41"},
			after:  none, left: []quota.Quota{{699, 41 * time.Second}, {99, 41 * time.Second}},
		},
		{
			source: "Zendesk, other: developer.zendesk.com/documentation/api-basics/best-practices/best-practices-for-avoiding-rate-limiting",
			header: []string{"X-Rate-Limit", "700", "X-Rate-Limit-Remaining", "699"}, after: none,
		},
		{
			source: "Stripe: docs.stripe.com/rate-limits",
			header: []string{"Stripe-Rate-Limited-Reason", "global-concurrency", "Stripe-Should-Retry", "true"}, after: none,
		},
		{
			source: "OpenAI: thoughtbot.com/blog/openai-rate-limits, platform.openai.com/docs/guides/rate-limits",
			header: []string{"x-ratelimit-limit-requests", "60", "x-ratelimit-limit-tokens", "150000", "x-ratelimit-remaining-requests", "59", "x-ratelimit-remaining-tokens", "149984", "x-ratelimit-reset-requests", "1s", "x-ratelimit-reset-tokens", "6m0s"},
			after:  none, left: []quota.Quota{{59, time.Second}},
		},
		{
			source: "OpenAI: community.openai.com/t/how-to-get-rate-limit-reset-time-for-response-api/1268905",
			header: []string{"x-ratelimit-limit-requests", "5000", "x-ratelimit-remaining-requests", "4999", "x-ratelimit-remaining-tokens", "159976", "x-ratelimit-reset-requests", "12ms", "x-ratelimit-reset-tokens", "9ms"},
			after:  none, left: []quota.Quota{{4999, 12 * time.Millisecond}},
		},
		{source: "OpenAI, refused: docs.openai.com error codes", header: []string{"retry-after-ms", "6021", "retry-after", "7"}, after: 6021 * time.Millisecond},
		{
			source: "Azure OpenAI: learn.microsoft.com/en-us/answers/questions/5625878",
			header: []string{"x-ratelimit-limit-tokens", "-1", "x-ratelimit-remaining-tokens", "-1", "x-ratelimit-reset-tokens", "0"}, after: none,
		},
		{
			source: "Azure Cosmos DB: learn.microsoft.com/rest/api/cosmos-db/common-cosmosdb-rest-response-headers",
			header: []string{"x-ms-retry-after-ms", "37"}, after: 37 * time.Millisecond,
		},
		{
			source: "Anthropic: docs.anthropic.com/en/api/rate-limits", now: date("2026-01-01T12:00:00Z"),
			header: []string{"anthropic-ratelimit-requests-limit", "50", "anthropic-ratelimit-requests-remaining", "0", "anthropic-ratelimit-requests-reset", "2026-01-01T12:00:13Z", "anthropic-ratelimit-tokens-remaining", "30000", "retry-after", "13"},
			after:  13 * time.Second, left: []quota.Quota{{0, 13 * time.Second}}, spent: true,
		},
		{
			source: "Docker Hub: docs.docker.com/docker-hub/usage/pulls",
			header: []string{"ratelimit-limit", "100;w=21600", "ratelimit-remaining", "20;w=21600", "docker-ratelimit-source", "192.0.2.1"},
			after:  none, left: []quota.Quota{{20, 6 * time.Hour}},
		},
		{
			source: "Cloudflare: developers.cloudflare.com/changelog/2025-09-03-rate-limiting-improvement",
			header: []string{"Ratelimit", `"default";r=50;t=30`, "Ratelimit-Policy", `"burst";q=100;w=60`},
			after:  none, left: []quota.Quota{{50, 30 * time.Second}}, policies: []quota.Quota{{100, time.Minute}},
		},
		{
			source: "Cloudflare, before: developers.cloudflare.com/fundamentals/api/reference/limits", now: date("2025-09-03T10:00:00Z"),
			header: []string{"x-ratelimit-limit", "1200", "x-ratelimit-remaining", "0", "retry-after", "20", "x-ratelimit-reset", "Wed, 03 Sep 2025 10:00:20 GMT"},
			after:  20 * time.Second, left: []quota.Quota{{0, 20 * time.Second}}, spent: true,
		},
		{
			source: "lemlist: developer.lemlist.com/api-reference/getting-started/rate-limits", now: date("2021-02-16T08:02:40Z"),
			header: []string{"Retry-After", "2", "X-RateLimit-Limit", "20", "X-RateLimit-Remaining", "7", "X-RateLimit-Reset", "Tue Feb 16 2021 09:02:42 GMT+0100 (Central European Standard Time)"},
			after:  2 * time.Second, left: []quota.Quota{{7, 2 * time.Second}},
		},
		{
			source: "Prisjakt, milliseconds: developer.prisjakt.nu/docs/sections/rate-limit",
			header: []string{"X-Rate-Limit-Limit", "10000", "X-Rate-Limit-Remaining", "0", "X-Rate-Limit-Reset", "600000"},
			after:  none, left: []quota.Quota{{0, 10 * time.Minute}}, spent: true,
		},
		{
			source: "MailerLite: developers-classic.mailerlite.com/docs/api-rate-limits", now: date("2021-05-01T00:00:00Z"),
			header: []string{"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "2021-05-01T00:00:35Z", "X-RateLimit-Retry-After", "35"},
			after:  35 * time.Second, left: []quota.Quota{{0, 35 * time.Second}}, spent: true,
		},
		{
			source: "Persona: docs.withpersona.com/v2021-07-05/reference/rate-limiting",
			header: []string{"ratelimit-limit", "300", "ratelimit-remaining", "280", "ratelimit-reset", "53"},
			after:  none, left: []quota.Quota{{280, 53 * time.Second}},
		},
		{
			source: "Brevo: developers.brevo.com/docs/limit-headers",
			header: []string{"x-sib-ratelimit-limit", "1000", "x-sib-ratelimit-remaining", "850", "x-sib-ratelimit-reset", "45"},
			after:  none, left: []quota.Quota{{850, 45 * time.Second}},
		},
		{
			source: "Statbot: docs.statbot.net/docs/api/schemas/ratelimitheaders",
			header: []string{"x-ratelimit-limit", "10", "x-ratelimit-remaining", "5", "x-ratelimit-reset", "60", "retry-after", "30"},
			after:  30 * time.Second, left: []quota.Quota{{5, time.Minute}},
		},
		{
			source: "Unipile: developer.unipile.com/v2.0/reference/rate-limit",
			header: []string{"x-ratelimit-limit", "50", "x-ratelimit-remaining", "12", "x-ratelimit-reset", "24"},
			after:  none, left: []quota.Quota{{12, 24 * time.Second}},
		},
		{
			source: "WHOOP: developer.whoop.com/docs/developing/rate-limiting",
			header: []string{"X-RateLimit-Limit", "100, 100;window=60, 10000;window=86400", "X-RateLimit-Remaining", "98", "X-RateLimit-Reset", "3"},
			after:  none, left: []quota.Quota{{98, 3 * time.Second}},
		},
		{
			source: "Attio, date: docs.attio.com/rest-api/guides/rate-limiting", now: date("2023-05-23T14:42:00Z"),
			header: []string{"Retry-After", "Tue, 23 May 2023 14:42:01 GMT"}, after: time.Second,
		},
		{source: "Notion: developers.notion.com/reference/request-limits", header: []string{"Retry-After", "42"}, after: 42 * time.Second},
		{
			source: "Mastodon: qiita.com/KEINOS/items/8ad7a88d42e94d894f0d", now: date("2020-09-08T13:20:00.019685Z"),
			header: []string{"x-ratelimit-limit", "7500", "x-ratelimit-remaining", "7495", "x-ratelimit-reset", "2020-09-08T13:25:00.019685Z"},
			after:  none, left: []quota.Quota{{7495, 5 * time.Minute}},
		},
		{
			source: "Omnisend: api-docs.omnisend.com/v5/reference/rate-limit-timeouts-errors",
			header: []string{"X-Rate-Limit-Limit", "400", "X-Rate-Limit-Remaining", "399", "X-Rate-Limit-Reset", "59"},
			after:  none, left: []quota.Quota{{399, 59 * time.Second}},
		},
		{
			source: "Reddit: github.com/reddit/reddit/wiki/API",
			header: []string{"X-Ratelimit-Used", "2", "X-Ratelimit-Remaining", "598.0", "X-Ratelimit-Reset", "481"},
			after:  none, left: []quota.Quota{{598, 481 * time.Second}},
		},
		{
			source: "Resend: resend.com/changelog/api-rate-limit",
			header: []string{"ratelimit-limit", "2", "ratelimit-remaining", "0", "ratelimit-reset", "1", "retry-after", "1"},
			after:  time.Second, left: []quota.Quota{{0, time.Second}}, spent: true,
		},
		{
			source: "BigCommerce: docs.bigcommerce.com/developer/docs/overview/api-fundamentals/rate-limits",
			header: []string{"X-Rate-Limit-Time-Window-Ms", "30000", "X-Rate-Limit-Time-Reset-Ms", "15000", "X-Rate-Limit-Requests-Quota", "150", "X-Rate-Limit-Requests-Left", "35"},
			after:  none, left: []quota.Quota{{35, 15 * time.Second}},
		},
		{
			source: "HubSpot: developers.hubspot.com/changelog/2018-11-06-rate-limit-information-headers-will-be-included-in-http-responses",
			header: []string{"X-HubSpot-RateLimit-Daily", "250000", "X-HubSpot-RateLimit-Daily-Remaining", "249000", "X-HubSpot-RateLimit-Interval-Milliseconds", "10000", "X-HubSpot-RateLimit-Max", "100", "X-HubSpot-RateLimit-Remaining", "99"},
			after:  none, left: []quota.Quota{{99, 10 * time.Second}},
		},
		{
			source: "Xero: developer.xero.com/faq/limits",
			header: []string{"X-DayLimit-Remaining", "4990", "X-MinLimit-Remaining", "57", "X-AppMinLimit-Remaining", "9980"},
			after:  none, left: []quota.Quota{{57, time.Minute}},
		},
		{
			source: "Contentful: contentful.com/developers/docs/references/content-management-api/overview",
			header: []string{"X-Contentful-RateLimit-Reset", "1", "X-Contentful-RateLimit-Second-Limit", "10"}, after: time.Second,
		},
		{
			source: "Amazon Selling Partner API: developer-docs.amazon.com/sp-api/docs/usage-plans-and-rate-limits",
			header: []string{"x-amzn-RateLimit-Limit", "0.5"}, after: none, policies: []quota.Quota{{0.5, time.Second}},
		},
		{
			source: "Linear: linear.app/developers/rate-limiting", now: time.UnixMilli(1700000000000),
			header: []string{"X-RateLimit-Requests-Limit", "1500", "X-RateLimit-Requests-Remaining", "1499", "X-RateLimit-Requests-Reset", "1700003600000", "X-Complexity", "120"},
			after:  none, left: []quota.Quota{{1499, time.Hour}},
		},
		{
			source: "Kong: docs.konghq.com/hub/kong-inc/rate-limiting",
			header: []string{"X-RateLimit-Limit-Minute", "10", "X-RateLimit-Remaining-Minute", "9", "RateLimit-Limit", "10", "RateLimit-Remaining", "9", "RateLimit-Reset", "17"},
			after:  none, left: []quota.Quota{{9, 17 * time.Second}, {9, time.Minute}},
		},
		{
			source: "IETF, draft-ietf-httpapi-ratelimit-headers-10",
			header: []string{"RateLimit-Policy", `"permin";q=50;w=60,"perhr";q=1000;w=3600`, "RateLimit", `"permin";r=0;t=10`},
			after:  none, left: []quota.Quota{{0, 10 * time.Second}}, policies: []quota.Quota{{50, time.Minute}, {1000, time.Hour}}, spent: true,
		},
		{
			source: "IETF, draft 07", header: []string{"RateLimit", "limit=100, remaining=50, reset=5", "RateLimit-Policy", "100;w=10"},
			after: none, left: []quota.Quota{{50, 5 * time.Second}}, policies: []quota.Quota{{100, 10 * time.Second}},
		},
		{source: "RFC 9110, section 10.2.3: a date", now: date("1999-12-31T23:59:29Z"), header: []string{"Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"}, after: 30 * time.Second},
		{source: "RFC 9110, section 10.2.3: seconds", header: []string{"Retry-After", "120"}, after: 2 * time.Minute},
	} {
		h := header(c.header...)
		after, ok := quota.RetryAfter(h, c.now)
		if !ok {
			after = none
		}
		require.Equal(t, c.after, after, "%s: Retry-After", c.source)
		qs := quota.Of(h, c.now)
		require.Equal(t, len(c.left), len(qs.Left), "%s: %v", c.source, qs.Left)
		for i, q := range c.left {
			require.Equal(t, q.Operations, qs.Left[i].Operations, c.source)
			require.InDelta(t, q.Within, qs.Left[i].Within, float64(time.Microsecond), c.source)
		}
		require.Equal(t, c.policies, qs.Policies, c.source)
		require.Equal(t, c.spent, qs.Spent, c.source)
	}
}

// A number without a unit is read in the one that makes sense.
func TestUnits(t *testing.T) {
	now := date("2026-11-28T12:00:00Z")
	for _, d := range []time.Duration{0, time.Second, 7 * time.Second, time.Minute, time.Hour} {
		at := now.Add(d)
		for unit, n := range map[string]string{
			"seconds from now":        fmt.Sprint(int64(d.Seconds())),
			"seconds since 1970":      fmt.Sprint(at.Unix()),
			"milliseconds since 1970": fmt.Sprint(at.UnixMilli()),
			"microseconds since 1970": fmt.Sprint(at.UnixMicro()),
			"nanoseconds since 1970":  fmt.Sprint(at.UnixNano()),
		} {
			after, ok := quota.RetryAfter(header("Retry-After", n), now)
			require.True(t, ok, "%v in %s", d, unit)
			require.InDelta(t, d, after, float64(time.Millisecond), "%v in %s", d, unit)
			left := quota.Of(header("X-RateLimit-Remaining", "3", "X-RateLimit-Reset", n), now).Left
			if d > 0 {
				require.Len(t, left, 1, "%v in %s", d, unit)
				require.InDelta(t, d, left[0].Within, float64(time.Millisecond), "%v in %s", d, unit)
			}
		}
		if d < 2*time.Minute {
			continue // in small units it looks like seconds
		}
		for _, n := range []int64{d.Milliseconds(), d.Microseconds(), d.Nanoseconds()} {
			after, ok := quota.RetryAfter(header("Retry-After", fmt.Sprint(n)), now)
			require.True(t, ok)
			require.Equal(t, d, after, "%d", n)
		}
	}
	// Whatever the unit, a number is never a day's standstill for a short wait.
	for _, d := range []time.Duration{2 * time.Minute, 10 * time.Minute, time.Hour} {
		for _, n := range []int64{d.Milliseconds(), d.Microseconds(), d.Nanoseconds()} {
			after, _ := quota.RetryAfter(header("Retry-After", fmt.Sprint(n)), now)
			require.LessOrEqual(t, after, time.Hour, "%d", n)
		}
	}
}

func TestRetryAfterForms(t *testing.T) {
	now := date("2026-03-01T12:00:00Z")
	for _, c := range []struct {
		header []string
		want   time.Duration
	}{
		{[]string{"Retry-After", "3", "Retry-After", "5"}, 5 * time.Second},
		{[]string{"Retry-After", "3, 5, 4"}, 5 * time.Second},
		{[]string{"Retry-After", "soon, 4"}, 4 * time.Second},
		{[]string{"Retry-After", "Sun, 01 Mar 2026 12:00:30 GMT", "Retry-After", "4"}, 30 * time.Second},
		{[]string{"Retry-After", "soon", "X-RateLimit-Retry-After", "9"}, 9 * time.Second},
		{[]string{"Retry-After-Ms", "soon", "Retry-After", "9"}, 9 * time.Second},
		{[]string{"Retry-After-Ms", "99999999999"}, quota.MaxWait},
		{[]string{"Retry-After", "1m30s"}, 90 * time.Second},
		{[]string{"Retry-After", "200h"}, quota.MaxWait},
		{[]string{"Retry-After", "-1m"}, 0},
		{[]string{"Retry-After", "+3"}, 3 * time.Second},
		{[]string{"Retry-After", "-3"}, 0},
		{[]string{"Retry-After", "1.5"}, 1500 * time.Millisecond},
		{[]string{"Retry-After", "86400"}, 24 * time.Hour},
		{[]string{"Retry-After", "99999999999999999999"}, none},
		{[]string{"Retry-After", "1e3"}, none},
		{[]string{"Retry-After", "0x10"}, none},
		{[]string{"Retry-After", "Inf"}, none},
		{[]string{"Retry-After", ""}, none},
		{[]string{"Retry-After", ","}, none},
		{[]string{"Retry-After", "2026-03-01T12:00:05Z"}, 5 * time.Second},
		{[]string{"Retry-After", "2026-03-01T13:00:05+0100"}, 5 * time.Second},
		{[]string{"Retry-After", "1772366405", "Date", "Sun, 01 Mar 2026 11:59:55 GMT"}, 10 * time.Second}, // by its own clock
	} {
		d, ok := quota.RetryAfter(header(c.header...), now)
		if !ok {
			d = none
		}
		require.Equal(t, c.want, d, "%v", c.header)
	}
}

func TestQuotaForms(t *testing.T) {
	for _, c := range []struct {
		header []string
		left   []quota.Quota
		spent  bool
	}{
		// A family that does not say until when hides none that does.
		{[]string{"RateLimit-Remaining", "9", "X-RateLimit-Remaining", "30", "X-RateLimit-Reset", "10"}, []quota.Quota{{30, 10 * time.Second}}, false},
		{[]string{"RateLimit", "remaining=9", "X-RateLimit-Remaining", "30", "X-RateLimit-Reset", "10"}, []quota.Quota{{30, 10 * time.Second}}, false},
		{[]string{"RateLimit-Remaining", "9", "RateLimit-Reset", "5", "X-RateLimit-Remaining", "30", "X-RateLimit-Reset", "10"}, []quota.Quota{{9, 5 * time.Second}, {30, 10 * time.Second}}, false},
		// Several in one field.
		{[]string{"X-RateLimit-Remaining", "5, 100", "X-RateLimit-Reset", "1, 60"}, []quota.Quota{{5, time.Second}, {100, time.Minute}}, false},
		{[]string{"X-RateLimit-Remaining", "5", "X-RateLimit-Remaining", "100", "X-RateLimit-Reset", "60"}, []quota.Quota{{5, time.Minute}, {100, time.Minute}}, false},
		{[]string{"X-RateLimit-Remaining", "5;w=1, 0;w=60"}, []quota.Quota{{5, time.Second}, {0, time.Minute}}, true},
		{[]string{"X-RateLimit-Remaining", "0"}, nil, true},
		{[]string{"X-RateLimit-Remaining", "-1", "X-RateLimit-Reset", "60"}, nil, false},
		{[]string{"X-RateLimit-Remaining", "many", "X-RateLimit-Reset", "60"}, nil, false},
		{[]string{"X-RateLimit-Remaining", "5", "X-RateLimit-Reset", "later"}, nil, false},
		{[]string{"RateLimit", `"a";r=5;t=60`, "Age", "3"}, nil, false},
		{[]string{"X-Shopify-Shop-Api-Call-Limit", "40"}, nil, false},
		{[]string{"X-Shopify-Shop-Api-Call-Limit", "1/0"}, nil, false},
		{[]string{"X-Shopify-Shop-Api-Call-Limit", "x/40"}, nil, false},
	} {
		qs := quota.Of(header(c.header...), unix(1700000000))
		require.Equal(t, c.left, qs.Left, "%v", c.header)
		require.Equal(t, c.spent, qs.Spent, "%v", c.header)
	}
	d, ok := quota.Of(header("X-RateLimit-Remaining", "0, 0, 7", "X-RateLimit-Reset", "1, 60, 90"), unix(0)).Wait()
	require.True(t, ok)
	require.Equal(t, time.Minute, d)
	_, ok = quota.Of(header("X-RateLimit-Remaining", "0"), unix(0)).Wait()
	require.False(t, ok)
}

func FuzzHeader(f *testing.F) {
	for _, v := range []string{"120", "-1", "1.5", "1700000000", "1700000000000", "99999999999999999999", "6m0s", "Sun, 01 Mar 2026 12:00:30 GMT", "2026-03-26T16:00Z", `"a\",b";q=1;w=2;r=0;t=1`, "100;w=60", "32/40", "1, 2", "total=1; remaining=0; resets=9"} {
		f.Add(v, "1", v, int64(1700000000))
		f.Add("1", v, "60", int64(1700000000))
	}
	f.Fuzz(func(t *testing.T, after, left, reset string, now int64) {
		h := http.Header{}
		for _, name := range []string{"Retry-After", "Retry-After-Ms", "Date", "Age"} {
			h.Set(name, after)
			if d, ok := quota.RetryAfter(h, unix(now)); d < 0 || d > quota.MaxWait || !ok && d != 0 {
				t.Fatalf("%s %q: %v, %t", name, after, d, ok)
			}
		}
		h.Del("Age")
		for _, name := range []string{"RateLimit", "RateLimit-Policy", "RateLimit-Remaining", "X-RateLimit-Remaining", "X-RateLimit-Remaining-Minute", "X-Shopify-Shop-Api-Call-Limit", "X-Amzn-RateLimit-Limit", "X-RateLimit-FillRate", "Zendesk-RateLimit-X"} {
			h.Set(name, left)
		}
		for _, name := range []string{"RateLimit-Reset", "X-RateLimit-Reset", "X-RateLimit-Reset-Ms", "X-RateLimit-Interval-Seconds"} {
			h.Set(name, reset)
		}
		qs := quota.Of(h, unix(now))
		for _, list := range [][]quota.Quota{qs.Left, qs.Policies} {
			for _, q := range list {
				if !(q.Operations >= 0) || math.Signbit(q.Operations) || q.Within <= 0 || q.Within > quota.MaxWait {
					t.Fatalf("%v: %v", h, q)
				}
			}
		}
		if d, ok := qs.Wait(); d < 0 || d > quota.MaxWait || ok && !qs.Spent {
			t.Fatalf("%v: %v", h, d)
		}
	})
}
