package dynamostore_test

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/idempotent/dynamostore"
)

func Example() {
	client := newFake() // dynamodb.NewFromConfig(cfg) in a program
	store, err := dynamostore.New(client, "runs", dynamostore.Config{Namespace: "orders/reserve-stock"})
	if err != nil {
		fmt.Println(err)
		return
	}
	once, err := idempotent.New(store, idempotent.Config{
		Key: func(m *queue.Message) (string, error) { return m.Attributes["order-id"], nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := once.Wrap(queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
		claim, _ := idempotent.Current(ctx)
		fmt.Printf("reserve %s, idempotency key %s\n", m.Body, claim.Key)
		return nil
	}))
	order := &queue.Message{Body: []byte("3 widgets"), Attributes: map[string]string{"order-id": "o-17"}}
	for range 3 { // delivered three times, perhaps to three processes
		if err := h.Handle(context.Background(), order); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("runs:", once.Stats().Runs)
	// Output:
	// reserve 3 widgets, idempotency key o-17
	// runs: 1
}

// The stock and the record that it was taken from are written together, so a
// crash can't come in between.
func ExampleStore_DoneItem() {
	client := newFake() // dynamodb.NewFromConfig(cfg) in a program
	store, err := dynamostore.New(client, "runs", dynamostore.Config{Namespace: "orders/take-stock"})
	if err != nil {
		fmt.Println(err)
		return
	}
	once, err := idempotent.New(store, idempotent.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	take := once.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
		claim, _ := idempotent.Current(ctx)
		done, err := store.DoneItem(claim, nil)
		if err != nil {
			return err
		}
		_, err = client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: []types.TransactWriteItem{
			{Update: &types.Update{
				TableName:                 aws.String("stock"),
				Key:                       map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: "SOCK-42"}},
				UpdateExpression:          aws.String("ADD quantity :taken"),
				ExpressionAttributeValues: map[string]types.AttributeValue{":taken": &types.AttributeValueMemberN{Value: "-3"}},
			}},
			done,
		}})
		return err
	}))
	for range 3 {
		if err := take.Handle(context.Background(), &queue.Message{Body: []byte("order 17: 3 SOCK-42")}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("quantity:", client.items["stock/SOCK-42"]["quantity"].(*types.AttributeValueMemberN).Value)
	// Output:
	// quantity: -3
}
