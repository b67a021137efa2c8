package order_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/retry"
)

const goodOrder = `{"id":"o-1","sku":"SOCK-42","quantity":2,"customer":"Zoë"}`

// badOrders are bodies, and the field that each error names.
var badOrders = map[string]struct{ body, field string }{
	"empty":            {``, "body"},
	"cut off":          {goodOrder[:20], "body"},
	"null":             {`null`, "body"},
	"array":            {`[]`, "body"},
	"two":              {goodOrder + goodOrder, "body"},
	"not UTF-8":        {strings.Replace(goodOrder, "ë", "\xeb", 1), "body"},
	"no fields":        {`{}`, "id"},
	"unknown field":    {`{"id":"o-1","colour":"red"}`, `"colour"`},
	"other letters":    {strings.Replace(goodOrder, `"sku"`, `"SKU"`, 1), `"SKU"`},
	"field twice":      {strings.Replace(goodOrder, `{`, `{"sku":"CAP-1",`, 1), "sku"},
	"id is a number":   {strings.Replace(goodOrder, `"o-1"`, `1`, 1), "id"},
	"id is empty":      {strings.Replace(goodOrder, `o-1`, ``, 1), "id"},
	"id has a space":   {strings.Replace(goodOrder, `o-1`, `o 1`, 1), "id"},
	"id has a newline": {strings.Replace(goodOrder, `o-1`, `o\n1`, 1), "id"},
	"id is long":       {strings.Replace(goodOrder, `o-1`, strings.Repeat("o", 65), 1), "id"},
	"sku is null":      {strings.Replace(goodOrder, `"SOCK-42"`, `null`, 1), "sku"},
	"sku is not ASCII": {strings.Replace(goodOrder, `SOCK`, `ŠOCK`, 1), "sku"},
	"no quantity":      {strings.Replace(goodOrder, `"quantity":2,`, ``, 1), "quantity"},
	"quantity 0":       {strings.Replace(goodOrder, `2,`, `0,`, 1), "quantity"},
	"quantity -1":      {strings.Replace(goodOrder, `2,`, `-1,`, 1), "quantity"},
	"quantity 1001":    {strings.Replace(goodOrder, `2,`, `1001,`, 1), "quantity"},
	"quantity 1.5":     {strings.Replace(goodOrder, `2,`, `1.5,`, 1), "quantity"},
	"quantity 1e99":    {strings.Replace(goodOrder, `2,`, `1e99,`, 1), "quantity"},
	"quantity as text": {strings.Replace(goodOrder, `2,`, `"2",`, 1), "quantity"},
	"no customer":      {strings.Replace(goodOrder, `Zoë`, ``, 1), "customer"},
	"long customer":    {strings.Replace(goodOrder, `Zoë`, strings.Repeat("ë", 201), 1), "customer"},
}

func TestParseOrder(t *testing.T) {
	o, err := order.Parse([]byte(" " + goodOrder + "\n"))
	require.NoError(t, err)
	require.Equal(t, order.Order{ID: "o-1", SKU: "SOCK-42", Quantity: 2, Customer: "Zoë"}, o)

	for name, bad := range badOrders {
		t.Run(name, func(t *testing.T) {
			_, err := order.Parse([]byte(bad.body))
			var field *order.FieldError
			require.ErrorAs(t, err, &field)
			require.Equal(t, bad.field, field.Field, err)
			require.ErrorIs(t, err, retry.ErrPermanent)
			require.Equal(t, "invalid", retry.Reason(err))
		})
	}
}

func FuzzParseOrder(f *testing.F) {
	f.Add([]byte(goodOrder))
	for _, bad := range badOrders {
		f.Add([]byte(bad.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := order.Parse(body)
		if err != nil {
			require.ErrorAs(t, err, new(*order.FieldError))
			return
		}
		m, err := order.NewMessage(o)
		require.NoError(t, err)
		again, err := order.Parse(m.Body)
		require.NoError(t, err)
		require.Equal(t, o, again, "what goes through the queue is what came in")
	})
}
